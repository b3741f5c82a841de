"""Commands that plan, execute and look after a run."""
