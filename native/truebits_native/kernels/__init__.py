"""The loops that Numba compiles: each works on a run of chunks and writes a row per chunk. Threads are `pool`'s."""
