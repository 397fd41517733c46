"""What multiplies a node's score in place of the costs downstream of it (Weber et al. 2019)."""

from estimators.credit.lambda_return import GAE, LambdaReturn
from estimators.credit.monte_carlo import MonteCarlo

__all__ = ["GAE", "LambdaReturn", "MonteCarlo"]
