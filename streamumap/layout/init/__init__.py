"""First positions: by PCA, along eigenvectors of the graph, and level by level from coarsened graphs."""
