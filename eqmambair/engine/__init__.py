"""Training that loses nothing: options, the loop, checkpoints, several processes, logs; for every task alike."""
