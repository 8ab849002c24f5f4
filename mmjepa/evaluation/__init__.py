"""Looking inside: functions on features and probes on frozen encoders."""
