"""Speed and memory of our models beside others: the only place that figures in our texts come from."""
