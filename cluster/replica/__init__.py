"""The Ray Serve deployment around an engine, and the token channel to the owners of its turns."""
