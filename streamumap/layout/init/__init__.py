"""First positions: PCA, eigenvectors of the graph, and the coarsened graphs of the multilevel start."""
