"""State-space layers: parametrisations, the discrete systems they give, and the mixer around them."""
