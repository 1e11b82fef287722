"""One call of an RLM: from the inputs through the loop to the prediction and its run."""
