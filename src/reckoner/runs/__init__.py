"""Run folders: records, folders, checkpoints, hashes and safe paths."""
