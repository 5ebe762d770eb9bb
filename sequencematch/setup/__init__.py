"""From a configuration to all that a run needs: defaults, rules, memory, and the parts."""
