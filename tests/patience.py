"""How long tests wait for what takes seconds: only a test that hangs waits so long, however busy the machine is."""

PATIENCE_S = 300
