"""The repository of a resource, on DynamoDB and in memory."""
