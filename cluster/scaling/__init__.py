"""How many replicas a load needs: a pure policy and the class by which Ray Serve's controller asks it."""
