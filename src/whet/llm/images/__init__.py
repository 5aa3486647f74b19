"""Images beside texts: read, resized, encoded, and put into prompts."""
