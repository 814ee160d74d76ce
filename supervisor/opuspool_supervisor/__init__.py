"""The supervisor: spawns workers, watches them, dispatches, retries."""
