"""Several ways to one gradient, from lecture notes on stochastic computation graphs: which is best?"""
