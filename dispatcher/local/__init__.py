"""The whole stack on a laptop: an AWS-shaped endpoint, and the app's functions under Lambda's own runtime client."""
