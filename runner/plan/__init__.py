"""What will happen and why, decided before anything runs. Pure: no clock, no network, no writes."""
