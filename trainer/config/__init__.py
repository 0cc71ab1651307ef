"""What a run is asked to do: the classes of the config, how a file becomes one, and what may change between starts."""
