"""The Lambda entry points that this repository deploys."""
