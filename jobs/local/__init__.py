"""A whole cycle on one machine: all stages in the order of the stage table, over one store."""
