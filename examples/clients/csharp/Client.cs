// Sends an image to `maskline serve`; writes the masks of its instances and the rendered image.
// .NET or Mono, with Newtonsoft.Json.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Net.Http;
using System.Text;
using System.Text.RegularExpressions;
using System.Threading.Tasks;
using Newtonsoft.Json;
using Newtonsoft.Json.Linq;

/// <summary>An error reported in one line.</summary>
class Fault : Exception
{
    public Fault(string message) : base(message) { }
}

class UsageFault : Exception
{
    public UsageFault(string message) : base(message) { }
}

class Options
{
    public string Url = "http://127.0.0.1:8080";
    public double? Threshold;
    public bool Visualize = true;
    public double Timeout = 60;
    public string Image, Folder;
}

// Json.NET fills these by name; marked fields are required.
class Result
{
    [JsonProperty(Required = Required.Always)] public List<Instance> Instances { get; set; }
    [JsonProperty(Required = Required.Always)] public int[] Size { get; set; } // height, width
    public string Image { get; set; }
}

class Instance
{
    [JsonProperty(Required = Required.Always)] public double[] Bbox { get; set; } // x0, y0, x1, y1
    [JsonProperty(Required = Required.Always)] public string CategoryName { get; set; }
    [JsonProperty(Required = Required.Always)] public double Score { get; set; }
    [JsonProperty(Required = Required.Always)] public Mask Mask { get; set; }
}

class Mask
{
    [JsonProperty(Required = Required.Always)] public string RleResult { get; set; }
    [JsonProperty(Required = Required.Always)] public int[] Size { get; set; } // rows, columns
}

static class Client
{
    const int Attempts = 5; // to reach a busy server
    const int MaxWait = 60; // seconds between two of them

    const string Usage = @"usage: client [OPTIONS] IMAGE OUTPUT_FOLDER
  --url URL      of the server (default http://127.0.0.1:8080)
  --threshold T  lowest score, 0 to 1
  --no-image     do not render the image
  --timeout S    seconds (default 60)
MASKLINE_API_KEY in the environment is sent as the API key.";

    static int Main(string[] arguments)
    {
        CultureInfo.CurrentCulture = CultureInfo.InvariantCulture; // a point in numbers, wherever it runs
        Console.OutputEncoding = new UTF8Encoding(false);
        try
        {
            Run(CommandLine(arguments)).GetAwaiter().GetResult();
            return 0;
        }
        catch (UsageFault fault)
        {
            Console.Error.WriteLine($"error: {fault.Message}\n{Usage}");
            return 2;
        }
        catch (Exception fault) when (fault is Fault || fault is IOException || fault is UnauthorizedAccessException)
        {
            Console.Error.WriteLine("error: " + Regex.Replace(fault.Message, @"\s+", " "));
            return 1;
        }
    }

    static Options CommandLine(string[] arguments)
    {
        var options = new Options();
        var rest = new List<string>();
        var left = new Queue<string>(arguments);
        while (left.Count > 0)
        {
            var name = left.Dequeue();
            if (name == "--url") options.Url = Value(name, left);
            else if (name == "--threshold") options.Threshold = Number(Value(name, left), 0, 1);
            else if (name == "--timeout") options.Timeout = Number(Value(name, left), 0.001, 86400);
            else if (name == "--no-image") options.Visualize = false;
            else if (name.StartsWith("--")) throw new UsageFault($"there is no option {name}");
            else rest.Add(name);
        }
        if (rest.Count != 2) throw new UsageFault("IMAGE and OUTPUT_FOLDER are needed");
        options.Image = rest[0];
        options.Folder = rest[1];
        return options;
    }

    static string Value(string name, Queue<string> left) =>
        left.Count > 0 ? left.Dequeue() : throw new UsageFault($"{name} needs a value");

    static double Number(string text, double low, double high) =>
        double.TryParse(text, out var value) && low <= value && value <= high
            ? value
            : throw new UsageFault($"'{text}' is not a number from {low} to {high}");

    static async Task Run(Options options)
    {
        var request = new JObject
        {
            ["image"] = Convert.ToBase64String(Read(options.Image)),
            ["visualize"] = options.Visualize,
        };
        if (options.Threshold != null) request["threshold"] = options.Threshold;
        var answer = await Ask(options, request.ToString(Formatting.None));
        byte[] pgm, rendered;
        try
        {
            var result = answer["result"].ToObject<Result>();
            pgm = LabelImage(result);
            rendered = Convert.FromBase64String(result.Image ?? "");
        }
        catch (Exception fault) when (fault is JsonException || fault is FormatException || fault is OverflowException
                                      || fault is NullReferenceException || fault is IndexOutOfRangeException)
        {
            throw new Fault($"unexpected answer: {fault.Message}");
        }
        Directory.CreateDirectory(options.Folder);
        File.WriteAllBytes(Path.Combine(options.Folder, "masks.pgm"), pgm);
        if (rendered.Length > 0) File.WriteAllBytes(Path.Combine(options.Folder, "rendered.jpg"), rendered);
    }

    static byte[] Read(string path)
    {
        try
        {
            return File.ReadAllBytes(path);
        }
        catch (Exception fault) when (fault is IOException || fault is UnauthorizedAccessException
                                      || fault is ArgumentException)
        {
            throw new Fault($"{path} can't be read: {fault.Message}");
        }
    }

    /// <summary>The server's answer. If it is busy (429, 503), the request is repeated after Retry-After.</summary>
    static async Task<JObject> Ask(Options options, string body)
    {
        var url = options.Url.TrimEnd('/') + "/instance-segmentation";
        for (var attempt = 1; ; attempt++)
        {
            // A client for each attempt: on Mono, reusing one sometimes fails.
            using (var client = new HttpClient { Timeout = TimeSpan.FromSeconds(options.Timeout) })
            using (var response = await Post(client, url, body))
            {
                var status = (int)response.StatusCode;
                if (status != 429 && status != 503 || attempt == Attempts)
                    return Checked(url, status, await response.Content.ReadAsStringAsync());
                // It may be missing, or a date.
                var wait = Math.Min(response.Headers.RetryAfter?.Delta?.TotalSeconds ?? 1, MaxWait);
                Console.Error.WriteLine($"busy ({status}): again in {wait} s");
                await Task.Delay(TimeSpan.FromSeconds(wait));
            }
        }
    }

    static async Task<HttpResponseMessage> Post(HttpClient client, string url, string body)
    {
        client.DefaultRequestHeaders.ExpectContinue = false;
        var key = Environment.GetEnvironmentVariable("MASKLINE_API_KEY");
        if (!string.IsNullOrEmpty(key))
            client.DefaultRequestHeaders.TryAddWithoutValidation("Authorization", $"Bearer {key}");
        try
        {
            return await client.PostAsync(url, new StringContent(body, Encoding.UTF8, "application/json"));
        }
        catch (TaskCanceledException)
        {
            throw new Fault($"no answer from {url}: timed out");
        }
        catch (Exception fault) when (fault is HttpRequestException || fault is FormatException
                                      || fault is InvalidOperationException || fault is NotSupportedException
                                      || fault is ArgumentException)
        {
            throw new Fault($"no answer from {url}: {(fault.InnerException ?? fault).Message}");
        }
    }

    /// <summary>The answer, if successful.</summary>
    static JObject Checked(string url, int status, string text)
    {
        JObject answer;
        try
        {
            answer = JObject.Parse(text);
        }
        catch (JsonException)
        {
            throw new Fault($"{url} answered {status} without a JSON object");
        }
        if (status != 200 || answer["errorCode"]?.ToString() != "0")
            throw new Fault($"{status}: {answer["errorMsg"]} (logId {answer["logId"]})");
        return answer;
    }

    /// <summary>Prints the instances, best first, and numbers their pixels 1, 2, ... in a PGM image.</summary>
    static byte[] LabelImage(Result result)
    {
        int height = result.Size[0], width = result.Size[1];
        var head = Encoding.ASCII.GetBytes($"P5\n{width} {height}\n65535\n");
        var pgm = new byte[checked(head.Length + 2 * height * width)];
        head.CopyTo(pgm, 0);
        var number = 0;
        foreach (var one in result.Instances)
        {
            number++;
            double left = Math.Round(one.Bbox[0]), top = Math.Round(one.Bbox[1]); // half to even, as the server does
            int rows = one.Mask.Size[0], cols = one.Mask.Size[1];
            if (top < 0 || left < 0 || rows < 0 || cols < 0 || top + rows > height || left + cols > width)
                throw new FormatException("a mask exceeds the image");
            var mask = DecodeRle(one.Mask.RleResult, rows, cols);
            for (var at = 0; at < mask.Length; at++)
            {
                var place = head.Length + 2 * (((int)top + at / cols) * width + (int)left + at % cols);
                if (!mask[at] || pgm[place] != 0 || pgm[place + 1] != 0) continue;
                pgm[place] = (byte)(number >> 8); // the high byte first
                pgm[place + 1] = (byte)number;
            }
            var box = string.Join("\t", one.Bbox.Select(side => side.ToString("F1")));
            Console.WriteLine($"{one.Score:F4}\t{box}\t{mask.Count(inside => inside)}\t{one.CategoryName}");
        }
        return pgm;
    }

    /// <summary>The mask, row by row, decoded from COCO's compressed RLE.</summary>
    /// <remarks>
    /// Runs of background and foreground in turn, background first, go down the columns. From the fourth on, the
    /// difference to the run two places earlier is written. A number comes in groups of five bits, lowest first, the
    /// last one's highest bit its sign; 32 is added where more groups follow, and 48 to make it a character.
    /// </remarks>
    static bool[] DecodeRle(string counts, int rows, int cols)
    {
        var mask = new bool[rows * cols];
        var runs = new List<long>();
        int at = 0, shift = 0;
        long value = 0;
        foreach (var character in counts)
        {
            long group = character - 48;
            value += (group & 31) << shift;
            shift += 5;
            if ((group & 32) != 0 && shift < 60) continue;
            value -= (group & 16) << (shift - 4);
            if (runs.Count > 2) value += runs[runs.Count - 2];
            if (value < 0 || value > mask.Length - at) break;
            for (var end = at + value; at < end; at++) mask[at % rows * cols + at / rows] = runs.Count % 2 == 1;
            runs.Add(value);
            value = shift = 0;
        }
        if (at != mask.Length || shift != 0)
            throw new FormatException($"RLE does not match {rows} x {cols} pixels");
        return mask;
    }
}
