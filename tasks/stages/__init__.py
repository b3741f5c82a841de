"""One file a stage: which tasks it has, and what a task reads, computes and writes."""
