"""What a recipe must keep between its fields, by owner. Torch-free."""
