"""From a configuration to everything that training needs: validation, memory and the parts."""
