"""The pages that people read: docs/, README, CONTRIBUTING, deploy/."""
