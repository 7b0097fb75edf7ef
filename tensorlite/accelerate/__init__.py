"""Acceleration of the engine, attached from outside: no core module imports this package."""
