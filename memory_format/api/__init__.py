"""What is said over HTTP, once for both sides: requests, answers, closed sets of words, names of headers, limits."""
