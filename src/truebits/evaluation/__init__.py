"""What a change does to what the model says, run in llama.cpp."""
