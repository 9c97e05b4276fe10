"""A question to `refrain serve` by OpenAI's own client (`pip install openai`).

python examples/serving/ask.py http://localhost:8000 "who broke the reshape code?"
"""

import os
import sys

from openai import OpenAI

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key=os.environ.get("REFRAIN_API_KEY", "none"))
answer = client.chat.completions.create(
    model="refrain",
    messages=[{"role": "user", "content": sys.argv[2]}],
    max_tokens=64,
    extra_body={"refrain": {"top_k": 3, "search": "hybrid"}},
)
print(answer.choices[0].message.content)
for source in answer.refrain["sources"]:
    print(f"<{source['message_id']}> {source['date'][:10]} {source['sender']}: {source['subject']}")
