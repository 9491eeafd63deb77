"""What several tests share; scripts run by hand put ``tests/`` on their path themselves."""
