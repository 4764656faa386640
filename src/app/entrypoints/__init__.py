"""What starts the process: the server and the Lambda functions."""
