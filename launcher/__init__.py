"""How it is trained: recipe -> plan -> run. The only room that knows the others."""

__version__ = "0.1.0"
