"""Tools that the student calls: functions and tables of the user's, Python, servers of MCP."""
