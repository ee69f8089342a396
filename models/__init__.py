"""What is trained: plain single-device torch modules, each beside its config and its parameter facts."""
