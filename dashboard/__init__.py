"""Shows and asks: the Streamlit pages and the command line."""
