"""How it is trained: recipe -> plan -> run. The only room that knows the others."""
