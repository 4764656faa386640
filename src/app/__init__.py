"""An orders API: one application object, run by Lambda (Mangum) or by uvicorn."""

__version__ = "0.1.0"
