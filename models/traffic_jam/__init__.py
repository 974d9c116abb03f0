"""The traffic jam of the lectures: a Bayes net of five variables, and the same questions to a Markov random field."""
