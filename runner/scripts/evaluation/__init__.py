"""What the evaluating scripts share: examples, intervals, and what an answer is measured by."""
