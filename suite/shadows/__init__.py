"""Shadow models: training them, and what their answers tell of each patient."""
