"""Ng & Jordan (2000), "PEGASUS: a policy search method for large MDPs and POMDPs", UAI."""
