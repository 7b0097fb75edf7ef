"""What makes the engine fast, attached from outside: no core module imports this package."""
