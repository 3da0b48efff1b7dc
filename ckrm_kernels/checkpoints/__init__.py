"""From a checkpoint's files to the layers in it. Nothing in a file runs, and no state of the process changes."""
