"""What the machine offers: processes and signals, environments, hardware facts, tools."""
