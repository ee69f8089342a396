"""Mesh, sharding and wrap order; the engine that owns forward, backward and step."""
