"""What every other part agrees on: records, artifacts, stages, the cycle, the store, errors.

A leaf: it imports nothing of ours, and no heavy library (boto3 only inside the S3 store).
"""
