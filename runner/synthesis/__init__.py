"""New rows of data from seeds or documents, by asking a model: `recipe data synthesize`."""
