"""The sink: Azure Data Explorer. Client, statements, queued ingestion and schema; nothing here knows Defender's API."""
