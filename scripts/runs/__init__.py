"""Commands that plan, execute and monitor a run."""
