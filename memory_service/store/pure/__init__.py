"""Decisions without I/O and without SQL: functions of arrays and values."""
