"""Programs that try to leave a sandbox, and the world around it that they try to reach."""
